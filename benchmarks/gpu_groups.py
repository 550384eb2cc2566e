"""Which exactness parts of `gpu_check.py` share a process; nothing here starts JAX."""

# Run side by side where there are processors enough: compiling is most of it.
GROUPS = (
  ("attention kernels = block form",),
  ("packed = alone", "sampling"),
  ("every loss = CPU", "step = CPU", "without kernels"),
  ("first loss is ln 2", "a step twice", "checkpoint and resume", "cached reference"),
  ("twenty steps", "another process"),
)
