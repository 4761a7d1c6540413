"""What makes a loaded model fast or small on the machine it runs on, outside the model's code.

A linear layer is a weight and a way to apply it. A model's parts say `nn.Linear`; here the way, and if
asked the weight, is exchanged after loading:

    optimize    prepares a loaded model
    packed      float32 and bfloat16 weights, with a copy in the order that matrix kernels read fastest
    rounded     weights of 16, 8 and 4 bits
    together    packed layers that read the same x, as one product
    experts     stacks of experts, packed or rounded
    frozen      what layers with rounded weights have in common: they refuse to be trained or saved

What costs no memory, `layers.linear`, needs no asking.
"""

from .bitsandbytes import BitsAndBytesConfig
from .optimize import optimize

__all__ = ["BitsAndBytesConfig", "optimize"]
