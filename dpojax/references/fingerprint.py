"""A name for parameters that changes whenever they do."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from dpojax.parallel.placement import to_host
from dpojax.types import Params


def weights_fingerprint(params: Params) -> str:
  """sha256 over names, dtypes, shapes and bytes of all parameters, as 64 hexadecimal digits."""
  leaves = {jax.tree_util.keystr(path): to_host(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

  def digest(item: tuple[str, np.ndarray]) -> bytes:
    name, array = item
    array = np.ascontiguousarray(array)
    value = hashlib.sha256(f"{name} {array.dtype} {array.shape}\n".encode())
    value.update(array.reshape(-1).view(np.uint8).data)
    return value.digest()

  with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
    return hashlib.sha256(b"".join(threads.map(digest, sorted(leaves.items())))).hexdigest()
