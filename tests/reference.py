"""Names of the reference's quantizers, as the golden numbers use them."""

import re

_OPERANDS = {
    "matmul1.quant_act1": "query",
    "matmul1.quant_act2": "key",
    "matmul2.quant_act1": "probabilities",
    "matmul2.quant_act2": "value",
    "quant_act": "input",
}


def quantizer_path(name):
    """Where the quantizer that the reference calls `name` stands in our tree."""
    name = re.sub(r"\.(\d+)\b", r"_\1", name)
    for theirs, ours in _OPERANDS.items():
        if name.endswith(theirs):
            return (*name.removesuffix("." + theirs).split("."), ours)
    raise ValueError(name)
