"""Training the network that a method converts, on one GPU or many, so that it can be cut off at any moment.

`recipe` and `spec` say what a training is; `prepared` turns a request into networks and data; `loop` trains; `command` is the
whole way from a request to a checkpoint with a card and a `TrainingRecord`. Everything random (order, augmentation, dropout)
follows from the seed, the epoch, the step and the number of the image alone. So a training that was cut off goes on exactly,
and several processes see the images that one would have seen.
"""
