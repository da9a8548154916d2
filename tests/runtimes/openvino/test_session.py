"""What an open OpenVINO model is set to."""

import pytest

from tests.runtimes.conftest import STUDY
from tests.runtimes.declarations import runtime_of
from tests.runtimes.test_contract import built, start

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_it_keeps_to_its_threads_and_to_float32(hint, images, tmp_path):
    member = built("openvino", start("residual"), images, tmp_path / "artifact", settings={"hint": hint})
    session = runtime_of("openvino").open(member.artifact, member.target, member.settings, STUDY)
    compiled = session._compiled[1]
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    session.close()
