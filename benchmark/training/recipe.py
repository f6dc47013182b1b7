"""Hyper-parameters of a training. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from benchmark.spec import Frozen

TrainingPrecision = Literal["fp32", "tf32", "bf16", "fp64"]


class Recipe(Frozen):
    """How a network is trained.

    Attributes:
        epochs: passes over the training split; images that do not fill the last batch are left out of a pass.
        batch_size: images behind one step of the optimizer, over all processes and accumulated parts.
        accumulate: parts that a batch is computed in, one after the other. Batch norms see a part, not the batch.
        optimizer: `sgd` (Nesterov momentum) or `adamw`.
        lr: peak learning rate: rises linearly over `warmup_epochs`, then falls to zero as a cosine, step by step.
        momentum: of `sgd`.
        weight_decay: of all parameters, biases, norms and thresholds included, as in the papers.
        decay_thresholds: False spares the thresholds.
        augment: any of `crop-flip` (shift by up to an eighth of the side over black, mirror), `resized-crop` (random area and
            shape, mirror), `autoaugment` (the policy of CIFAR-10 up to 64 pixels, of ImageNet above), `color-jitter` (0.2, 0.2,
            0.2, 0.1), `cutout` (a square of half the side becomes the mean colour). Applied in this order.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none; with both, one of them is drawn for each batch.
        label_smoothing: share of the label that is spread over all classes.
        distill: weight of the teacher's answer in the loss (Hinton et al. 2015); the rest is that of the labels.
        temperature: of the distillation.
        ema: decay per step of the average of the weights that is evaluated and kept, None for none.
        clip_norm: largest norm of the gradient, None for any.
        threshold_quantile: where thresholds start, on the input of each activation. None: at the method's own value. It applies
            where training starts from a ReLU network, or always if `start_thresholds`.
        precision: `bf16` is autocast over float32 weights. The network is always judged in fp32 (fp64 in fp64).
        seed: of weights, order and augmentation.
    """

    epochs: PositiveInt
    batch_size: PositiveInt = 128
    accumulate: PositiveInt = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    warmup_epochs: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    decay_thresholds: bool = True
    augment: tuple[Literal["crop-flip", "resized-crop", "autoaugment", "color-jitter", "cutout"], ...] = ()
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    distill: float = Field(default=0.0, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    threshold_quantile: float | None = Field(default=0.995, gt=0, le=1)
    start_thresholds: bool = False
    precision: TrainingPrecision = "fp32"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"a warm-up of {self.warmup_epochs:g} epochs does not fit into {self.epochs}")
        if {"crop-flip", "resized-crop"} <= set(self.augment):
            raise ValueError("crop-flip and resized-crop exclude each other")
        if len(set(self.augment)) < len(self.augment):
            raise ValueError("an augmentation is named twice")
        return self
