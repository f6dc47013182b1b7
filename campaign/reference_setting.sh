#!/usr/bin/env bash
# The reference demo's setting, trained and judged by us: CIFAR-10, ResNet-18, 2-bit activations, and its neighbours.
#
#   campaign/reference_setting.sh DATA RESULTS [STEP...]
#
# DATA holds CIFAR-10 in either layout; records, recordings, curves and checkpoints go to RESULTS. STEPs, by default all of them in
# this order; each goes on where it was cut off, and does nothing if it is done:
#
#   train-2bit   ResNet-18, 2-bit LSQ activations
#   judge-2bit   that network as QCFS, QFFS, SRP and COS at T = 32 under every stopping rule, and as QCFS at the demo's T = 27
#   clock-2bit   seconds of its fixed-time and early-exit passes at batch 1, 64 and 512, added to the record of T = 27
#   train-l4, judge-l4      the same for ResNet-18 with QCFS activations, L = 4
#   train-vgg, judge-vgg    the same for VGG-16
#   speed        our simulator beside its floor and its peers, written to RESULTS/speed.md
#
# From the environment, for rehearsals and other machines: PYTHON, DEVICE, EPOCHS, WARMUP (epochs), MODEL, VGG, LIMIT (test and
# training images), CALIBRATION (images), SINGLE (images timed at batch 1), COMPILE (empty for none), SPEED (options of
# `benchmark.bench peers`), TOGETHER (how many judgements run at a time; clock and speed are always alone).
set -euo pipefail

data=$1 results=$2
shift 2
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(train-2bit judge-2bit clock-2bit train-l4 judge-l4 train-vgg judge-vgg speed)

python=${PYTHON:-python} device=${DEVICE:-auto} epochs=${EPOCHS:-80} model=${MODEL:-resnet18}
limit=${LIMIT:+--limit $LIMIT} calibration=${CALIBRATION:+--calibration-size $CALIBRATION}
rules=(
    "dynamic-confidence[selection=ltt]" "agreement[selection=ltt]" "entropy[selection=ltt]" "margin[selection=ltt]"
    "patience[selection=ltt]" "dynamic-confidence" "dynamic-confidence-reference" "conformal" "fixed" "random"
)

train() { # METHOD MODEL NAME OPTION...
    local method=$1 network=$2 name=$3
    shift 3
    # shellcheck disable=SC2086  # words, or none
    $python -m benchmark train --method "$method" --dataset cifar10 --data-dir "$data" --model "$network" \
        --preset short-cifar --epochs "$epochs" --batch-size 256 --warmup-epochs "${WARMUP:-5}" --augment crop-flip,cutout \
        --precision bf16 ${COMPILE---compile} --half --checkpoint-seconds 60 --device "$device" $limit \
        --results "$results" --output "$results/checkpoints/$name.safetensors" "$@"
}

judge() { # METHOD NAME TIMESTEPS OPTION...
    local method=$1 name=$2 timesteps=$3 options=() rule
    shift 3
    for rule in "${rules[@]}"; do options+=(--policy "$rule"); done
    [ "$method" != qffs ] || options+=(--policy silence)
    # shellcheck disable=SC2086
    $python -m benchmark run --method "$method" --dataset cifar10 --data-dir "$data" --batch-size auto \
        --checkpoint "$results/checkpoints/$name.safetensors" --timesteps "$timesteps" --device "$device" \
        $limit $calibration --results "$results" "${options[@]}" "$@"
}

judge_all() { # NAME: every method at T = 32
    local running=() method job
    for method in qcfs qffs srp cos; do
        judge $method "$1" 32 &
        running+=($!)
        if [ ${#running[@]} -ge "${TOGETHER:-1}" ]; then
            for job in "${running[@]}"; do wait "$job"; done
            running=()
        fi
    done
    for job in "${running[@]}"; do wait "$job"; done
}

for step in "${steps[@]}"; do
    echo "== $step" >&2
    case $step in
        train-2bit) train qffs "$model" cifar10-resnet18-lsq-2bit ;;
        judge-2bit)
            judge qcfs cifar10-resnet18-lsq-2bit 27
            judge_all cifar10-resnet18-lsq-2bit
            ;;
        clock-2bit)
            judge qcfs cifar10-resnet18-lsq-2bit 27 --measure --measure-batch-size 64 --measure-batch-size 512
            judge qcfs cifar10-resnet18-lsq-2bit 27 --measure --measure-batch-size 1 --measure-images "${SINGLE:-1000}"
            ;;
        train-l4) train qcfs "$model" cifar10-resnet18-qcfs-l4 ;;
        judge-l4) judge_all cifar10-resnet18-qcfs-l4 ;;
        train-vgg) train qcfs "${VGG:-vgg16}" cifar10-vgg16-qcfs-l4 --lr 0.1 ;;
        judge-vgg) judge_all cifar10-vgg16-qcfs-l4 ;;
        speed)
            # shellcheck disable=SC2086
            $python -m benchmark.bench peers ${SPEED---model resnet18 --batch-size 1 --batch-size 64 --batch-size 512 --timesteps 32 --repeats 3} \
                --device "$device" --output "$results/speed.md"
            ;;
        *) echo "no such step: $step" >&2; exit 2 ;;
    esac
done
