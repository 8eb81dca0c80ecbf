"""Nothing that a library compiles, caches or reports of a model leaves its process."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from inference.serving import environment
from tests.inference.serving.children import ROOT, run_child

# What would write constants of a model, or its description, to a disk or a network.
LEAKS = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "NO_ANALYTICS": "1",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
    "TORCHINDUCTOR_AUTOTUNE_REMOTE_CACHE": "0",
    "TRITON_CACHE_AUTOTUNING": "0",
    "CUDA_CACHE_DISABLE": "1",
    "ORT_TENSORRT_ENGINE_CACHE_ENABLE": "0",
    "ORT_TENSORRT_TIMING_CACHE_ENABLE": "0",
    "CUDA_ENABLE_COREDUMP_ON_EXCEPTION": "0",
    "CUDA_ENABLE_CPU_COREDUMP_ON_EXCEPTION": "0",
    "CUDA_ENABLE_USER_TRIGGERED_COREDUMP": "0",
}


def test_everything_that_could_leak_is_off_whatever_the_machine_says():
    code = """
        from inference.serving import environment
        environment.prepare()
        answer([dict(os.environ), sys.dont_write_bytecode])
        """

    other = dict.fromkeys(LEAKS, "enabled-by-an-operator")
    found, writes_none = run_child(code, env=other)

    assert {name: found[name] for name in LEAKS} == LEAKS
    assert writes_none is True


def test_torch_takes_it_as_meant():
    """Names of variables that a library no longer reads would protect nothing."""
    code = """
        {prepare}
        import torch._inductor.config as inductor, torch._dynamo.config as dynamo
        answer([bool(dynamo.disable), inductor.force_disable_caches,
                inductor.fx_graph_cache])
        """
    prepare = "from inference.serving import environment; environment.prepare()"

    assert run_child(code.format(prepare=prepare)) == [True, True, False]
    # Left to itself it would keep them.
    assert run_child(code.format(prepare="")) == [False, False, True]


def test_the_scanner_takes_it_as_meant(tmp_path):
    code = """
        {prepare}
        from modelaudit.telemetry import TelemetryClient
        answer(TelemetryClient()._is_disabled())
        """
    prepare = "from inference.serving import environment; environment.prepare()"
    clean = {"HOME": str(tmp_path)}

    assert run_child(code.format(prepare=prepare), env=clean) is True
    assert run_child(code.format(prepare=""), env=clean) is False


@pytest.mark.parametrize("_name", ["optimized_model_filepath", "enable_profiling"])
def test_no_graph_is_written_back(_name):
    """ONNX Runtime writes an optimised graph, or a profile, only where it is told to."""
    sources = (ROOT / "inference/serving").rglob("*.py")
    assert not [path for path in sources if _is_set(path, _name)]
    assert _is_set_in(f"options.{_name} = 1", _name)


def _is_set(path: Path, name: str) -> bool:
    return _is_set_in(path.read_text(), name)


def _is_set_in(source: str, name: str) -> bool:
    nodes = ast.walk(ast.parse(source))
    return any(isinstance(one, ast.Attribute) and one.attr == name for one in nodes)


def test_list_is_the_modules_own():
    assert environment._VARIABLES.items() >= LEAKS.items()


def test_nothing_is_imported_only_because_it_is_installed():
    code = """
        from inference.serving import environment
        environment.prepare()
        from inference.serving.runtimes.transformers import TransformersRuntime
        {imports}
        answer(sorted({{"accelerate", "boto3", "scipy"}} & sys.modules.keys()))
        """
    ours = "TransformersRuntime(threads=1).import_libraries()"
    control = "import transformers; transformers.LlamaForCausalLM"

    assert run_child(code.format(imports=ours)) == []
    assert run_child(code.format(imports=control)) == ["accelerate", "boto3", "scipy"]


def test_a_library_is_hidden_no_longer_than_asked_for():
    code = """
        from inference.serving import environment
        import json
        with environment.without("fractions", "json"):
            try:
                import fractions
                found = "there"
            except ImportError:
                found = "hidden"
            import json
        import fractions
        answer([found, fractions.__name__])
        """

    assert run_child(code) == ["hidden", "fractions"]
