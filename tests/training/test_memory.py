"""The estimate against what a step takes, recomputation against the plain step, and messages out of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.profiler import ProfilerActivity, profile

from stylegan_lightning import preflight
from stylegan_lightning.builders import build_module, build_schedule
from stylegan_lightning.config_checks import run_problems
from stylegan_lightning.training import memory
from stylegan_lightning.training.module import GAN
from stylegan_lightning.training.recompute import recomputable_blocks, set_activation_checkpointing
from tests.conftest import ROOT, TINY, read_rows

SMALL = [
    "metrics=none",
    "model.channel_base=256",
    "model.channel_max=16",
    "data.resolution=16",
    "schedule.batch_size=4",
]
STYLES = ["model.w_dim=16", "model.z_dim=16", "model.mapping_layers=2"]
GROWING = ["experiment=growth", "schedule=progressive", "schedule.start_resolution=8", "schedule.total_kimg=10"]
GROWING += ["schedule.stabilise_kimg=1", "schedule.fade_kimg=1"]
MODELS = {
    "stylegan2": [*STYLES, "model.pl_weight=2", "model.r1_interval=16"],
    "stylegan2_skip": [*STYLES, "model=stylegan2", "model.d_architecture=skip", "model.g_architecture=resnet"],
    "stylegan3_t": [*STYLES, "model.num_layers=4"],
    "stylegan1": STYLES,
    "progan": ["model.z_dim=16"],
    "wgan_gp": [],
}


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", list(overrides))
    cfg.model.c_dim = 0
    return cfg


def gan(cfg: DictConfig) -> GAN:
    return build_module(cfg, build_schedule(cfg))


def of(model: str, *more: str) -> DictConfig:
    return config(f"model={model.removesuffix('_skip')}", *SMALL, *MODELS[model], *more)


def gradients(module: GAN) -> dict[str, list[torch.Tensor]]:
    """Of each phase, its loss first."""
    found, size = {}, module.G.img_resolution
    for phase in module.phases:
        nets = (module.G, module.D)
        for index, net in enumerate(nets):
            net.requires_grad_(index == phase.optimizer)
        torch.manual_seed(1)
        module.objectives.stream.generator.manual_seed(1)
        reals, c = torch.randn(4, 3, size, size), torch.zeros(4, 0)
        loss = phase.objective(reals, c, c)
        loss.backward()
        grads = [p.grad for p in nets[phase.optimizer].parameters() if p.grad is not None]
        found[phase.name] = [loss.detach(), *grads]
        nets[phase.optimizer].zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_recomputation_changes_no_value_and_no_gradient(model):
    cfg = of(model)
    plain, recomputed = gan(cfg), gan(cfg)
    assert sum(set_activation_checkpointing(net, True) for net in (recomputed.G, recomputed.D)) > 0
    expected, found = gradients(plain), gradients(recomputed)
    assert expected.keys() == found.keys()
    for name in expected:
        for a, b in zip(expected[name], found[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(a.abs().max()))
    for name, stat in plain.G.named_buffers():
        torch.testing.assert_close(stat, recomputed.G.get_buffer(name))
    assert plain.state_dict().keys() == recomputed.state_dict().keys()


def test_recomputation_is_for_training_alone_and_can_be_switched_off():
    module = gan(of("stylegan2"))
    set_activation_checkpointing(module.G, True)
    ws = torch.randn(2, module.G.num_ws, module.G.w_dim, requires_grad=True)
    blocks = recomputable_blocks(module.G)
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    counts = []
    for mode in (True, False):
        module.G.train(mode)
        kept.clear()
        with hooks:
            module.G.synthesis(ws)
        counts.append(len(kept))
    assert counts[0] < counts[1] / 2
    set_activation_checkpointing(module.G, False)
    assert not any("forward" in vars(b) for b in blocks)


def test_blocks_with_batch_normalisation_are_not_computed_twice():
    module = gan(of("wgan_gp"))
    assert not recomputable_blocks(module.G)
    assert recomputable_blocks(module.D)


def test_the_estimate_is_what_a_step_takes():
    module = gan(of("stylegan2", "model.channel_base=1024", "model.channel_max=64", "data.resolution=32"))
    found = memory.estimate_memory(module)
    largest = 0
    for phase in module.phases:
        nets = (module.G, module.D)
        for index, net in enumerate(nets):
            net.requires_grad_(index == phase.optimizer)
        reals, c = torch.randn(4, 3, 32, 32), torch.zeros(4, 0)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            phase.objective(reals, c, c).backward()
        nets[phase.optimizer].zero_grad(set_to_none=True)
        events = watched.profiler.kineto_results.events()
        now = peak = 0
        for _, nbytes in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
            now += nbytes
            peak = max(peak, now)
        largest = max(largest, peak)
    assert 0.75 < (found.gradients + found.activations) / largest < 1.25
    nets = (module.G, module.D)
    assert found.moments == 2 * sum(p.nbytes for net in nets for p in net.parameters())


def test_an_estimate_leaves_the_module_as_it_was():
    module = gan(of("progan", *GROWING))
    module.G.synthesis.grow_to(16, 0.25)
    before = dict([*module.named_parameters(), *module.named_buffers()])
    stream, state = module.objectives.stream, torch.get_rng_state()
    memory.estimate_memory(module)
    assert all(v is before[k] for k, v in [*module.named_parameters(), *module.named_buffers()])
    assert all(p.grad is None for p in module.parameters())
    assert module.objectives.stream is stream and torch.equal(torch.get_rng_state(), state)
    assert (module.G.synthesis.resolution, float(module.G.synthesis.alpha)) == (16, 0.25)
    gradients(module)  # still trains


def test_activations_follow_the_batch_and_its_parts():
    whole, double = (memory.estimate_memory(gan(of("stylegan2", f"schedule.batch_size={n}"))) for n in (8, 16))
    assert 1.7 < double.activations / whole.activations <= 2.05
    module = gan(of("stylegan2", "schedule.batch_size=16"))
    parts = memory.estimate_memory(module, batch_per_device=8)
    assert parts.batch == 8 and whole.total <= parts.total < 1.3 * whole.total < double.total
    assert memory.estimate_memory(module, ranks=2).batch == 8


def test_recomputation_and_low_precision_take_less():
    cfg = of("stylegan2", "schedule.batch_size=16", "data.resolution=32")
    plain = memory.estimate_memory(gan(cfg))
    cfg.trainer.activation_checkpointing = True
    assert memory.estimate_memory(gan(cfg)).activations < 0.7 * plain.activations
    cfg.trainer.activation_checkpointing, cfg.precision.low_dtype, cfg.precision.num_resolutions = False, "bfloat16", 4
    assert memory.estimate_memory(gan(cfg)).activations < 0.75 * plain.activations
    cfg.precision.low_dtype = None
    assert memory.estimate_memory(gan(cfg), autocast=torch.bfloat16).activations < plain.activations


def test_of_a_growing_run_the_largest_stage_counts():
    sizes = "schedule.batch_sizes={8: 64, 16: 4}"
    assert memory.estimate_memory(gan(of("progan", *GROWING, sizes))).resolution == 8
    assert memory.estimate_memory(gan(of("progan", *GROWING))).resolution == 16
    assert memory.estimate_memory(gan(of("progan", *GROWING, "schedule.total_kimg=0.5"))).resolution == 8


@pytest.mark.parametrize("model, setting", [("stylegan3_t", "precision=bf16_mixed"), ("stylegan2", "augment=ada")])
def test_nothing_that_a_phase_does_reads_numbers(model, setting):
    cfg = of(model, setting)
    assert preflight.memory_lines(cfg, gan(cfg))[0].startswith("memory: about ")


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_limits_of_control_groups_count(tmp_path):
    two = tmp_path / "two"
    for folder, limit, used in (("", "max", 500), ("/job", "1000", 300), ("/job/step", "max", 200)):
        base = two / f"sys/fs/cgroup{folder}"
        write(base, **{"memory.max": limit, "memory.current": str(used), "memory.stat": "anon 1\ninactive_file 100\n"})
    write(two, proc__self__cgroup="0::/job/step\n")
    assert list(memory._group_memory(two)) == [1000 - 200]
    one = tmp_path / "one"
    files = {"memory.limit_in_bytes": "900", "memory.usage_in_bytes": "400", "memory.stat": "total_inactive_file 50"}
    write(one / "sys/fs/cgroup/memory", **files)
    write(one, proc__self__cgroup="3:cpu:/x\n2:memory:/docker/abc\n")
    assert list(memory._group_memory(one)) == [550]
    assert list(memory._group_memory(tmp_path)) == []


def test_available_memory_comes_from_the_system(tmp_path):
    write(tmp_path, proc__meminfo="MemTotal: 10 kB\nMemAvailable:       3 kB\n")
    assert list(memory._system_memory(tmp_path)) == [3072]
    assert memory.available_memory(torch.device("cpu")) > 2**20


def test_too_little_memory_is_said_before_training(monkeypatch):
    cfg = of("stylegan2", "schedule.batch_size=16")
    module = gan(cfg)
    assert len(preflight.memory_lines(cfg, module)) == 1
    needed = preflight.estimate(cfg, module).total
    monkeypatch.setattr(preflight, "available_memory", lambda device: needed // 2)
    line, warning = preflight.memory_lines(cfg, module)
    assert line.startswith("memory: about ") and "weights and optimizer" in line
    assert warning.startswith("warning: ")
    offered = [
        "trainer.batch_per_device=",
        "trainer.activation_checkpointing=true",
        "model.channel_base=",
        "data.resol",
    ]
    assert all(text in warning for text in offered)
    assert warning.index("trainer.") < warning.index("model.channel_base=128")
    monkeypatch.setattr(preflight, "estimate", lambda cfg, module: (_ for _ in ()).throw(RuntimeError("no numbers")))
    assert preflight.memory_lines(cfg, module) == ["memory: not estimated (no numbers)"]


def test_settings_name_parts_that_the_batch_has():
    cfg = of("stylegan2", "schedule.batch_size=16", "model.mbstd_group_size=4")
    (_, changes), *rest = preflight._fewer_at_once(cfg, gan(cfg), room=1)
    assert changes == {"trainer.batch_per_device": 4} and not rest


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError()]
)
def test_what_is_out_of_memory(error):
    assert memory.is_out_of_memory(error) and not memory.is_out_of_memory(RuntimeError("shapes differ"))


def test_out_of_memory_in_a_run_is_one_message_and_the_run_can_go_on(run, tmp_path, monkeypatch):
    original = GAN._run

    def limited(self, index, lr, batch):
        if self.nimg >= 48 and self.phases[index].name == "D":
            self.running = "D"
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.")
        original(self, index, lr, batch)

    monkeypatch.setattr(GAN, "_run", limited)
    place = tmp_path / "r"
    done = run("train.py", *TINY, f"run_dir={place}", "logger=csv")
    assert done.code == 2 and "memory: about" in done.out
    assert "out of memory in phase D at 8 pixels, batch 8, asking for 4096 bytes more" in done.err
    assert "trainer.activation_checkpointing=true (" in done.err and f"train.py resume={place} trainer." in done.err
    monkeypatch.setattr(GAN, "_run", original)
    again = run("train.py", f"resume={place}", "trainer.activation_checkpointing=true")
    assert again.code == 0, again.err


def test_a_run_with_recomputation_trains_the_same(run, tmp_path):
    rows = []
    for on in ("false", "true"):
        place = tmp_path / on
        done = run("train.py", *TINY, f"trainer.activation_checkpointing={on}", f"run_dir={place}", "logger=csv")
        assert done.code == 0, done.err
        rows.append(read_rows(place / "metrics.csv")[-1])
    for key in ("loss/G", "loss/D", "logits/real"):
        assert float(rows[1][key]) == pytest.approx(float(rows[0][key]), rel=1e-4)


def test_settings_that_cannot_be_are_refused():
    cfg = of("stylegan2")
    cfg.trainer.activation_checkpointing = "some"
    assert any("trainer.activation_checkpointing must be true or false" in p for p in run_problems(cfg))
    cfg = config("model=dcgan", "trainer.activation_checkpointing=true")
    assert any("no blocks that can be computed twice" in p for p in run_problems(cfg))


@pytest.mark.gpu
def test_the_estimate_on_a_gpu():
    cfg = of("stylegan2", "model.channel_base=8192", "model.channel_max=256", "data.resolution=128")
    module = gan(cfg)
    found = memory.estimate_memory(module)
    module.cuda()
    module.objectives.stream.generator = torch.Generator("cuda")
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    for phase in module.phases:
        for index, net in enumerate((module.G, module.D)):
            net.requires_grad_(index == phase.optimizer)
        c = torch.zeros(4, 0, device="cuda")
        phase.objective(torch.randn(4, 3, 128, 128, device="cuda"), c, c).backward()
        module.zero_grad(set_to_none=True)
    peak = torch.cuda.max_memory_allocated() - start
    assert 0.75 < (found.gradients + found.activations) / peak < 1.25
