"""Before transformers is imported: where torchao is installed it imports that too, which logs what it lacks here."""

import logging

# Kernels for other processors, and a call of torch's that will be an error one day: nothing that a user could act on.
for name in ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops"):
    logging.getLogger(name).setLevel(logging.ERROR)
