"""The arithmetic that LoRA training cannot avoid, in floating-point operations per token.

    4  per weight of a frozen linear layer   forward X W^T, and backward dX = dY W; W itself needs no gradient
    6  per weight of the adapter             forward, and backward to the input and to the weight
    4  per weight of the head                forward and backward, on supervised tokens only
    7 S w  per layer for causal attention    forward 4 w (S / 2) = 2 S w: each token meets half of its document, S long,
                                             in Q K^T and in P V, w = heads * head_size wide; the backward pass makes
                                             Q K^T anew and has four more products, 2.5 times the forward

Norms, rotations, softmax and the optimizer are not counted, nor what a program does beyond this (padding, activation
checkpointing, the head on tokens without loss). The share of the machine's rate is thus one of useful work.
"""

from dataset import Statistics
from models import Shape, frozen_linear_parameters, lora_parameters

RANK = 16


def flops_per_token(shape: Shape, statistics: Statistics) -> float:
    """Mean over the tokens of the data."""
    linears = 4 * frozen_linear_parameters(shape) + 6 * lora_parameters(shape, RANK)
    head = 4 * shape.vocabulary * shape.hidden * statistics.supervised_share
    attention = 7 * statistics.attended_length * shape.attention_width * shape.layers
    return linears + head + attention
