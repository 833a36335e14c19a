"""Two machines, as two agents of torchrun on the loopback interface, do what one process does, and end together."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catwalk.results.record import RECORD_FILE

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PACKAGES = [HERE.parents[1], HERE.parent, HERE, HERE.parent / "lightning_modules"]


def run(command, folder, agents=2, patience=180, **names):
    """Run a command of Python, by so many agents of one process each; return exit codes and what each wrote."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PACKAGES)), "WANDB_MODE": "disabled", **names}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    place = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    started, outputs = [], [folder / f"agent{agent}.txt" for agent in range(agents)]
    for agent, output in enumerate(outputs):
        torchrun = ["-m", "torch.distributed.run", f"--nnodes={agents}", f"--node-rank={agent}", "--nproc-per-node=1"]
        line = [sys.executable, *(torchrun + place if agents > 1 else []), *map(str, command)]
        with output.open("w") as file:
            started.append(subprocess.Popen(line, env=environment, stdout=file, stderr=file))
    try:
        latest = time.monotonic() + patience
        codes = [process.wait(max(1.0, latest - time.monotonic())) for process in started]
    finally:
        for process in started:
            process.kill()
    return codes, [output.read_text(errors="replace") for output in outputs]


def catwalk(agents):
    return ["-m", "catwalk"] if agents == 1 else ["--module", "catwalk"]


def test_two_machines_measure_and_attack_as_one_does(shop, features, trained, recommender, tmp_path):
    logged, files = [], []
    for agents in (1, 2):
        folder = tmp_path / str(agents)
        options = {
            "model": "VBPR",
            "model.factors": 4,
            "model.visual_factors": 4,
            "model.top_k": "[5]",
            "data": "InteractionTriplets",
            "data.dataset": shop,
            "data.features": features,
            "config": "configs/attack/pgd8.yaml",
            "poison.attack.epsilon": 32,
            "poison.classifier": trained.checkpoint,
            "poison.source": "Sandal",
            "poison.target": "Sneaker",
            "poison.output": folder / "attack",
            "poison.results": folder / "store",
            "ckpt_path": recommender,
            "trainer.accelerator": "cpu",
            "trainer.devices": 1,
            "trainer.num_nodes": agents,
            "trainer.enable_progress_bar": "false",
            "trainer.logger": "CSVLogger",
            "trainer.logger.save_dir": folder,
            "trainer.callbacks": "[{class_path: callbacks.CategoryHitRatio}, {class_path: callbacks.AttackedItems}, "
            f"{{class_path: callbacks.WriteRecommendations, init_args: {{output: {folder}/lists.csv}}}}]",
        }
        for command in ("test", "predict"):
            line = [*catwalk(agents), command, *(f"--{name}={value}" for name, value in options.items())]
            codes, outputs = run(line, folder, agents)
            assert codes == [0] * agents, "\n".join(outputs)
        tables = sorted(folder.rglob("metrics.csv"))
        assert tables, outputs
        table = tables[0]
        with table.open() as file:
            rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
        logged.append({name: float(value) for row in rows for name, value in row.items() if name != "step"})
        (folder / "attack" / RECORD_FILE).unlink()  # which says how long it took
        found = [path for path in (*(folder / "attack").rglob("*"), folder / "lists.csv") if path.is_file()]
        files.append({str(path.relative_to(folder)): path.read_bytes() for path in found})
    assert files[0] == files[1]
    assert any(name.endswith(".png") for name in files[0])
    assert logged[1] == pytest.approx(logged[0], rel=1e-6)
    counted = {name for name in logged[0] if "chr@" in name or "hr@" in name or name.startswith("attack/")}
    assert len(counted) > 8
    assert {name: logged[1][name] for name in counted} == {name: logged[0][name] for name in counted}


@pytest.mark.parametrize(("trouble", "code"), [("killed", -signal.SIGKILL), ("step", 2)])
def test_what_ends_on_one_machine_ends_on_the_other(shop, tmp_path, trouble, code):
    script = [HERE / "end_in_processes.py", "Classifier", shop, tmp_path / "checkpoints"]
    codes, outputs = run(script, tmp_path, TROUBLE=trouble)
    assert all(each != 0 for each in codes), outputs
    errors = [[line for line in output.splitlines() if line.startswith("catwalk: error:")] for output in outputs]
    assert f"exitcode  : {code}" in outputs[1]
    (line,) = errors[0]
    assert ("process 1 of 0..1 was killed" if trouble == "killed" else "process 1 of 0..1: the batch") in line
