"""The optimiser of both stages."""

from inspect import unwrap

import torch


class Sgd(torch.optim.SGD):
    """torch's SGD with the same bits, but without the import of `torch._dynamo`, which takes two
    seconds.

    torch wraps these methods for torch.compile and imports `torch._dynamo` when one is first
    called. Updates are never compiled here, so the methods are used without the wrapper.
    """

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))
    zero_grad = unwrap(torch.optim.SGD.zero_grad)
    add_param_group = unwrap(torch.optim.SGD.add_param_group)
    state_dict = unwrap(torch.optim.SGD.state_dict)
    load_state_dict = unwrap(torch.optim.SGD.load_state_dict)
