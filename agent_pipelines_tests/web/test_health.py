from starlette.applications import Starlette
from starlette.testclient import TestClient

from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.health import Health, Process
from agent_pipelines.web.health import health_routes
from agent_pipelines_tests.web.conftest import WELL

ILL = Health(
    at=0,
    home="/its/<home>",
    problems=("the <script>web server</script> ended",),
    processes=(Process(kind="worker", host="h", pid=7, since_at=0, words="<b>gpu</b>"),),
)


def client(health: Health) -> TestClient:
    return TestClient(Starlette(routes=health_routes(lambda: health)))


def test_a_load_balancer_gets_yes_or_no() -> None:
    well, ill = client(WELL).get("/health"), client(ILL).get("/health")
    assert (well.status_code, well.json()) == (200, {"status": "ok", "problems": 0})
    assert (ill.status_code, ill.json()) == (503, {"status": "failing", "problems": 1})


def test_a_secret_does_not_get_onto_the_page() -> None:
    redactor.register('pa&ss"word<1>')
    told = Health(at=0, home="/h", problems=('no login with pa&ss"word<1>',))
    page = client(told).get("/status").text
    assert "no login with" in page
    assert "word" not in page


def test_the_page_shows_everything_and_executes_nothing() -> None:
    assert "all is well" in client(WELL).get("/status").text
    page = client(ILL).get("/status")
    assert page.status_code == 503
    assert "something is wrong" in page.text
    assert "&lt;script&gt;web server" in page.text
    assert "<td>7</td><td>1970-01-01T00:00:00Z</td><td>&lt;b&gt;gpu&lt;/b&gt;</td>" in page.text
    assert "<script" not in page.text
    assert "<b>" not in page.text
