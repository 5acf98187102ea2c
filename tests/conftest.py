"""Every test runs on four simulated devices, so that the multi-device path is the tested path."""

import os
import pathlib
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: without LLVM's optimisations they take half the time.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        "--xla_backend_optimization_level=0",
    ]
)

import pytest

# Workers and the processes that tests start share what they compile, for this session only.
_PROGRAMS = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _PROGRAMS = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="advjax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def pytest_unconfigure():
    """Removes the session's compiled programs; only the process that made the folder does."""
    if _PROGRAMS:
        shutil.rmtree(_PROGRAMS, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Lets go of compiled programs after a module where there are many; those on disk are found again."""
    yield
    from advjax import compiling

    compiling.forget_programs()


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder with CIFAR-10, MNIST and real weights; a test that needs it skips where it is absent."""
    root = pathlib.Path(__file__).resolve().parent.parent
    path = pathlib.Path(os.environ.get("ADVJAX_TEST_DATA", root / "../shared/data"))
    if not path.is_dir():
        pytest.skip("no test data: set ADVJAX_TEST_DATA to a folder with cifar10/, mnist.npz and weights/")
    return path
