"""Three gloo processes: what one rank sees, all of them decide, and a disagreement names rank and field."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import torch.distributed as dist
from vstrain.engine import guards
import torch
dist.init_process_group("gloo")
rank = dist.get_rank()
assert guards.agree(False, True) == guards.Verdict(False, [])
assert guards.agree(rank == 2, True) == guards.Verdict(True, [])
assert guards.agree(False, rank != 1) == guards.Verdict(False, [1])
assert guards.mean_over_ranks(torch.tensor([float(rank), 1.0])).tolist() == [1.0, 1.0]
guards.check_same({"config": "a", "data": "b"})
try:
    guards.check_same({"config": "a", "data": f"b{rank // 2}"})
except RuntimeError as error:
    assert "rank 2 has data b1, rank 0 has b0" in str(error), error
else:
    raise SystemExit("a disagreement went unnoticed")
dist.barrier()
dist.destroy_process_group()
"""


def test_three_ranks_agree(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", str(script)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
