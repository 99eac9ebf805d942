"""Which paths and queries go on that dmap does not know, and in what spelling."""

import pytest

from dmap.errors import BadRequest
from dmap.web.table import PATHS
from dmap.wire.passing import read_query, reason_against

KNOWN = frozenset(PATHS)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/moderations"),
        ("POST", "/v1/tokenize"),
        ("POST", "/v1/token/encode"),
        ("POST", "/v1/chat/completions/input_tokens"),
        ("POST", "/v1/files"),
        ("POST", "/v1/uploads/upload_abc123/parts"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/batches/batch_6a5B/cancel"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("POST", "/v1/text-to-speech/en_US.amy"),
        ("GET", "/v1/batches"),
        ("GET", "/v1/batches/batch_1"),
        ("GET", "/v1/files/file-aB3Key9StopUser/content"),
        ("GET", "/v1/audio/voices"),
        ("DELETE", "/v1/files/file-1"),
    ],
)
def test_what_is_passed_on(method, path):
    """A POST of anything that is no control; GET and DELETE of what a server keeps for its clients."""
    assert reason_against(method, path, KNOWN) is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1/lora_adapter/load",
        "/v1/loadLoraAdapter",
        "/v1/LOAD_LORA_ADAPTER",
        "/v1/Load",
        "/v1/load",
        "/v1/unload",
        "/v1/unload-all",
        "/v1/reload",
        "/v1/offload",
        "/v1/hotload",
        "/v1/load2",
        "/v1/model/load",
        "/v1/model/unload",
        "/v1/model",
        "/v1/model/embedding/load",
        "/v1/lora/load",
        "/v1/hardware/activate",
        "/v1/loras",
        "/v1/download",
        "/v1/template/switch",
        "/v1/sampling/override/switch",
        "/v1/auth/permission",
        "/v1/internal/model/load",
        "/v1/internal/stop-generation",
        "/v1/internal/encode",
        "/v1/chat/completions/control",
        "/v1/sleep",
        "/v1/wake_up",
        "/v1/shutdown",
        "/v1/backend/shutdown",
        "/v1/engines/other/completions",
        "/v1/deployments/other/chat/completions",
        "/v1/cluster/restart",
        "/v1/workers",
        "/v1/cache/models",
        "/v1/model_registrations/LLM",
        "/v1/pull",
        "/v1/delete",
        "/v1/install",
        "/v1/config",
        "/v1/settings",
        "/v1/update_weights_from_disk",
        "/v1/flush_cache",
        "/v1/start_profile",
        "/v1/collective_rpc",
        "/v1/abort_requests",
        "/v1/mcp/chat/completions",
        "/v1/organization/admin_api_keys",
        "/v1/proxy/chat/completions",
        "/v1/files/reload",
        "/v1/props",
        "/v1/slots",
        "/v1/stopGeneration",
        "/v1/clusterDrain",
    ],
)
def test_control_is_not_passed_on(path):
    """What loads, ends or changes a server for everybody stays its owner's, in whatever letters it is."""
    reason = reason_against("POST", path, KNOWN)

    assert reason is not None and "stands for control" in reason


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1//moderations",
        "/v1/moderations/",
        "/v1/./moderations",
        "/v1/../admin",
        "/v1/files/../load",
        "/v1/files/..%2fload",
        "/v1/files/%2e%2e/load",
        "/v1/%6coad",
        "/v1/l%6fad_lora_adapter",
        "/v1/%256coad",
        "/v1/modera\u0442ions",
        "/v1/\uff4coad",
        "/v1/moder\u0131ations",
        "/v1/x\\load",
        "/v1/x;load",
        "/v1/x:load",
        "/v1/x@load",
        "/v1/x#load",
        "/v1/x load",
        "/v1/x\tload",
        "/v1/x\r\nload",
        "/v1/x\0load",
        "/v1/moderations.",
        "/v1/.moderations",
        "/v1/a..b",
        "/v1/moderations\n",
        "/V1/moderations",
        "/v2/moderations",
        "/api/v1/moderations",
        "//v1/moderations",
        "/v1/Chat/Completions",
        "/v1/CHAT/completions",
        "/v1/Embeddings",
        "/v1/" + "a/" * 8 + "a",
        "/v1/" + "a" * 300,
    ],
)
def test_a_path_has_one_spelling(path):
    """Nothing goes on that a server may decode, fold, normalize or cut to another path."""
    assert reason_against("POST", path, KNOWN) == "paths are taken literally"


def test_a_base_url_that_is_given_twice():
    """A client whose base URL ends in /v1 and that adds it again is told so."""
    assert reason_against("POST", "/v1/v1/chat/completions", KNOWN) == "'/v1' is there twice"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/moderations"),
        ("GET", "/v1/Batches"),
        ("GET", "/v1/health"),
        ("GET", "/v1/loaded"),
        ("DELETE", "/v1/files"),
        ("DELETE", "/v1/moderations/1"),
        ("PUT", "/v1/files/1"),
        ("PATCH", "/v1/batches/1"),
        ("post", "/v1/moderations"),
        ("OPTIONS", "/v1/moderations"),
        ("HEAD", "/v1/files/1"),
        ("GET", "/v1/files/load"),
    ],
)
def test_other_methods(method, path):
    """Only what a server keeps for its clients can be fetched, and only one of it at a time be deleted."""
    assert reason_against(method, path, KNOWN) is not None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", ""),
        ("limit=20&after=file-1", "?limit=20&after=file-1"),
        ("include[]=a&include[]=b", "?include%5B%5D=a&include%5B%5D=b"),
        ("a=%7e&b=x;model=y", "?a=~&b=x%3Bmodel%3Dy"),
        ("order=", "?order="),
        ("model=alias&limit=1", "?model=real&limit=1"),
        ("model=", "?model=real"),
    ],
)
def test_a_query_is_written_anew(text, written):
    """It goes on in one spelling, in which no server finds another field, and with the model's own name."""
    assert read_query(text).written("real") == written


@pytest.mark.parametrize(
    "text",
    [
        "model=a&model=b",
        "Model=a",
        "MODEL=a",
        "model[]=a",
        "model.x=a",
        "m%6fdel=a&model=b",
        "model=" + "a" * 5000,
        "=a",
        "a",
        "a=%ff",
        "a=%00",
        "a=%0d%0aX-Evil:1",
        "&".join(f"a{n}=1" for n in range(65)),
        "Keep_Alive=1",
        "imageUrl=http://x",
    ],
)
def test_what_no_query_is(text):
    """A query that servers may read in several ways, or that names two models, is refused."""
    with pytest.raises(BadRequest):
        read_query(text)


def test_a_query_needs_permits():
    """What a body needs a permit for, a query needs, too."""
    needs = read_query("keep_alive=-1&url=http://10.0.0.1/&limit=3").needs

    assert {need.permit for need in needs} == {"keep_alive", "image_url"}
