"""Which exactness parts of `gpu_check.py` share a process, and how its programs are compiled; nothing here starts JAX."""

# XLA tries dozens of ways to multiply at every new shape, on all processors: a minute for each of these programs, and their
# numbers do not hang on it. So most parts are compiled without; the last group, which asks for equal bits, as in a run.
UNTUNED = "--xla_gpu_autotune_level=0"
GROUPS = (
  (UNTUNED, ("attention kernels = block form",)),
  (UNTUNED, ("packed = alone", "sampling", "every loss = CPU")),
  (UNTUNED, ("step = CPU", "twenty steps")),
  ("", ("policy gradient",)),
  ("", ("first loss is ln 2", "a step twice", "checkpoint and resume", "another process", "cached reference")),
)
