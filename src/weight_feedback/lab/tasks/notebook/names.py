"""The names of the networks, for help and choices that build none; without torch."""

#: As in the table of `networks`.
NETWORKS = (
    "mnist-plain",
    "mnist-pooled",
    "mnist-projected",
    "mnist-sketched",
    "cifar10-plain",
    "cifar10-pooled",
    "cifar10-projected",
    "cifar10-sketched",
)
