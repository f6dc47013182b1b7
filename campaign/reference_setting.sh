#!/usr/bin/env bash
# The reference demo's setting, trained and judged by us: CIFAR-10, ResNet-18, 2-bit activations, and its neighbours.
#
#   campaign/reference_setting.sh DATA RESULTS [STEP...]
#
# DATA holds CIFAR-10 in either layout; records, recordings, curves and checkpoints go to RESULTS. STEPs, by default all of them in
# this order; each goes on where it was cut off, and does nothing if it is done:
#
#   train-relu   ResNet-18 with ReLU, from scratch, from which the others start
#   train-2bit   ResNet-18, 2-bit LSQ activations
#   judge-2bit   that network as QCFS, QFFS, SRP and COS at T = 32 under every stopping rule, and as QCFS at the demo's T = 27
#   clock-2bit   seconds of its fixed-time and early-exit passes at batch 1, 64 and 512, added to the record of T = 27
#   train-l4, judge-l4      the same for ResNet-18 with QCFS activations, L = 4
#   train-vgg, judge-vgg    the same for VGG-16, whose ReLU network is trained first
#   speed        our simulator beside its floor and its peers (with DEVICE=cuda in TF32 too) and early exit beside its ideal, to
#                RESULTS/speed.md, speed_tf32.md and early_exit.md; whether fast simulation gives the answers of plain torch code
#
# From the environment, for rehearsals and other machines: PYTHON, DEVICE, EPOCHS and TUNING (from scratch, and from the ReLU
# network), WARMUP (epochs), RATE (of the tuning), MODEL, VGG, LIMIT (test and training images, 256 or more), CALIBRATION (images), SINGLE
# (images timed at batch 1), COMPILE (empty for none), SPEED, EXITS and EQUAL (options of `benchmark.bench peers`, `early-exit` and
# `exits`), TOGETHER (how many judgements run at a time; trainings, clock and speed are always alone).
set -euo pipefail

data=$1 results=$2
shift 2
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(train-relu train-2bit judge-2bit clock-2bit train-l4 judge-l4 train-vgg judge-vgg speed)

python=${PYTHON:-python} device=${DEVICE:-auto} epochs=${EPOCHS:-60} tuning=${TUNING:-40} model=${MODEL:-resnet18} vgg=${VGG:-vgg16}
limit=${LIMIT:+--limit $LIMIT} calibration=${CALIBRATION:+--calibration-size $CALIBRATION}
rules=(
    "dynamic-confidence[selection=ltt]" "agreement[selection=ltt]" "entropy[selection=ltt]" "margin[selection=ltt]"
    "patience[selection=ltt]" "dynamic-confidence" "dynamic-confidence-reference" "conformal" "fixed" "random"
)

train() { # METHOD MODEL NAME OPTION...
    local method=$1 network=$2 name=$3
    shift 3
    # shellcheck disable=SC2086  # words, or none
    $python -m benchmark train --method "$method" --dataset cifar10 --data-dir "$data" --model "$network" --batch-size 256 \
        --augment crop-flip,cutout --precision bf16 ${COMPILE---compile} --half --checkpoint-seconds 60 --device "$device" \
        $limit --results "$results" --output "$results/checkpoints/$name.safetensors" "$@"
}

from_scratch() { # MODEL NAME OPTION...: with ReLU
    local network=$1 name=$2
    shift 2
    train relu "$network" "$name" --preset short-cifar --epochs "$epochs" --warmup-epochs "${WARMUP:-3}" "$@"
}

fine_tune() { # METHOD MODEL NAME FROM
    # Weight decay would take thresholds to zero, which the small gradients of LSQ do not resist.
    train "$1" "$2" "$3" --preset fine-tune --init "$results/checkpoints/$4.safetensors" --epochs "$tuning" --lr "${RATE:-0.05}" \
        --no-decay-thresholds
}

judge() { # METHOD MODEL NAME TIMESTEPS OPTION...
    local method=$1 network=$2 name=$3 timesteps=$4 options=() rule
    shift 4
    for rule in "${rules[@]}"; do options+=(--policy "$rule"); done
    [ "$method" != qffs ] || options+=(--policy silence)
    # shellcheck disable=SC2086
    $python -m benchmark run --method "$method" --dataset cifar10 --data-dir "$data" --model "$network" \
        --batch-size auto --checkpoint "$results/checkpoints/$name.safetensors" --timesteps "$timesteps" --device "$device" \
        $limit $calibration --results "$results" "${options[@]}" "$@"
}

running=()

start() { # COMMAND...: runs it, beside others if TOGETHER says so
    "$@" &
    running+=($!)
    [ ${#running[@]} -lt "${TOGETHER:-1}" ] || finish
}

finish() {
    local job
    for job in "${running[@]}"; do wait "$job"; done
    running=()
}

judge_all() { # MODEL NAME: every method at T = 32
    local method
    for method in qcfs qffs srp cos; do start judge $method "$1" "$2" 32; done
    finish
}

for step in "${steps[@]}"; do
    echo "== $step" >&2
    case $step in
        train-relu) from_scratch "$model" cifar10-resnet18-relu ;;
        train-2bit) fine_tune qffs "$model" cifar10-resnet18-lsq-2bit cifar10-resnet18-relu ;;
        judge-2bit)
            start judge qcfs "$model" cifar10-resnet18-lsq-2bit 27
            judge_all "$model" cifar10-resnet18-lsq-2bit
            ;;
        clock-2bit)
            clock=(judge qcfs "$model" cifar10-resnet18-lsq-2bit 27 --measure)
            "${clock[@]}" --measure-batch-size 64 --measure-batch-size 512
            "${clock[@]}" --measure-batch-size 1 --measure-images "${SINGLE:-1000}"
            ;;
        train-l4) fine_tune qcfs "$model" cifar10-resnet18-qcfs-l4 cifar10-resnet18-relu ;;
        judge-l4) judge_all "$model" cifar10-resnet18-qcfs-l4 ;;
        train-vgg)
            from_scratch "$vgg" cifar10-vgg16-relu --lr 0.1
            fine_tune qcfs "$vgg" cifar10-vgg16-qcfs-l4 cifar10-vgg16-relu
            ;;
        judge-vgg) judge_all "$vgg" cifar10-vgg16-qcfs-l4 ;;
        speed)
            # shellcheck disable=SC2086
            speed=${SPEED---model resnet18 --batch-size 1 --batch-size 64 --batch-size 512 --timesteps 32 --repeats 3 --no-memory}
            # shellcheck disable=SC2086
            $python -m benchmark.bench peers $speed --device "$device" --output "$results/speed.md"
            # shellcheck disable=SC2086
            [ "$device" != cuda ] ||
                $python -m benchmark.bench peers $speed --precision tf32 --device cuda --output "$results/speed_tf32.md"
            # shellcheck disable=SC2086
            $python -m benchmark.bench early-exit ${EXITS---model resnet18 --batch-size 64 --batch-size 512 --repeats 3} \
                --device "$device" --output "$results/early_exit.md"
            # shellcheck disable=SC2086
            $python -m benchmark.bench exits ${EQUAL---batch-size 512 --images 10000} --data-dir "$data" --model "$model" \
                --checkpoint "$results/checkpoints/cifar10-resnet18-lsq-2bit.safetensors" --device "$device"
            ;;
        *) echo "no such step: $step" >&2; exit 2 ;;
    esac
done
