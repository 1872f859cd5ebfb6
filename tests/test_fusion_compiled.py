"""Compiled layers, for real and under DistributedDataParallel: they train as the layers do that are not compiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

COMPARE = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from torch._dynamo import config as compiler
from torch._dynamo.backends.distributed import DDPOptimizer
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel
from fusion_batch import TEXTS, WIDTHS, batch
from fusion_facts import small_config
from fusion.model import FusionModel

class Matching(torch.nn.Module):
    def __init__(self, fusion):
        super().__init__()
        self.fusion = fusion
    def forward(self, coalition):
        return self.fusion.match(TEXTS, batch(), coalition)

def trained(model, coalition):
    model.zero_grad()
    logits = model(coalition)
    logits.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"": logits.detach()} | {name.removeprefix("module."): grad.clone() for name, grad in gradients.items()}

def refused(*_, **__):
    raise AssertionError("graphs are cut at buckets")

folder = Path(sys.argv[1])
fusion = replace(small_config(folder), operator="coattention")
plain, fast = (Matching(FusionModel(fusion, WIDTHS)) for _ in range(2))
before = compiler.recompile_limit, compiler.optimize_ddp
fast.fusion.operator.compile_layers()
DDPOptimizer.compile_fn = refused
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
fast = DistributedDataParallel(fast, find_unused_parameters=True)
errors = []
for coalition in (("vit", "clip"), ("vit", "clip", "keys")):
    one, other = trained(plain, coalition), trained(fast, coalition)
    assert set(one) == set(other)
    errors.append(max(float((one[name] - other[name]).abs().max()) for name in one))
assert (compiler.recompile_limit, compiler.optimize_ddp) == before
print(json.dumps([errors, counters["stats"]["unique_graphs"]]))
torch.distributed.destroy_process_group()
"""


def test_compiled_layers_train_as_they_do_otherwise(tmp_path: Path) -> None:
    """In a process of its own, without the checks of shapes that tests run under.

    Logits and all gradients for two coalitions; few graphs, none cut at DDP's buckets, and no setting left behind.
    """
    rooms = os.pathsep.join(str(folder) for folder in Path(__file__).parents[:2])
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": rooms},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors, graphs = json.loads(done.stdout)
    assert max(errors) < 1e-5 and graphs == 4  # attention with and without a mask, MLP, reading
