"""Compose and Kubernetes files: consistent with each other, with the image and with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from connector.config import Config
from connector.web import server as web
from connector.web.flows import FlowApp
from connector.web.webhooks import WebhookApp
from tests.paths import ROOT

from .layout import CONFIG, DEPLOY, SECRETS, STATE, UID, dockerfile, secret_files

yaml = pytest.importorskip("yaml")

KUBERNETES = DEPLOY / "kubernetes"
DEPLOYMENTS = ("sidecar.yaml", "standalone.yaml", "replicas.yaml")
EACH = pytest.mark.parametrize("name", DEPLOYMENTS)
ON_A_VOLUME = pytest.mark.parametrize("name", ["sidecar.yaml", "standalone.yaml"])
GRACE = Config().server.shutdown_timeout + 10


def of(name: str) -> dict[str, Any]:
    """Kind → document of a manifest."""
    found = list(yaml.safe_load_all((KUBERNETES / name).read_text()))
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = of(name)["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    spec = pod(name)
    (found,) = [
        each
        for each in spec.get("initContainers", []) + spec["containers"]
        if each["name"] == "connector"
    ]
    return dict(found)


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def routes() -> set[str]:
    return set(re.findall(r'Route\("(/\w+)"', Path(web.__file__).read_text()))


def test_every_yaml_file_parses_and_has_no_duplicate_key() -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if key.value != "<<"]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    files = [*KUBERNETES.glob("*.yaml"), DEPLOY / "compose.yaml"]
    for file in files:
        assert all(yaml.load_all(file.read_text(), Loader=Strict)), file.name


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────


@EACH
def test_it_runs_as_the_images_user_and_writes_only_to_its_volumes(name: str) -> None:
    context = container(name)["securityContext"]
    assert context["runAsUser"] == context["runAsGroup"] == UID
    assert context["runAsNonRoot"] is context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod(name)["securityContext"]["fsGroup"] == UID
    mounts = {m["mountPath"]: m for m in container(name)["volumeMounts"]}
    assert set(mounts) == {STATE, str(Path(CONFIG).parent), SECRETS, "/tmp"}
    assert {path for path, m in mounts.items() if not m.get("readOnly")} == {STATE, "/tmp"}
    assert {m["name"] for m in mounts.values()} == {v["name"] for v in pod(name)["volumes"]}


@ON_A_VOLUME
def test_its_store_is_on_a_volume_of_its_own(name: str) -> None:
    objects, volumes = of(name), {v["name"]: v for v in pod(name)["volumes"]}
    claim = volumes["connector-state"]["persistentVolumeClaim"]["claimName"]
    assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
    assert "ReadWriteMany" not in objects["PersistentVolumeClaim"]["spec"]["accessModes"]
    assert set(objects["Secret"]["stringData"]) == secret_files()


@EACH
def test_its_volumes_reference_existing_objects(name: str) -> None:
    objects, volumes = of(name), {v["name"]: v for v in pod(name)["volumes"]}
    config = volumes["connector-config"]["configMap"]["name"]
    assert config == objects["ConfigMap"]["metadata"]["name"]
    secret = volumes["connector-secrets"]["secret"]
    assert secret["secretName"] == objects["Secret"]["metadata"]["name"]
    assert secret["defaultMode"] == 0o440
    assert set(objects["Secret"]["stringData"]) >= secret_files()
    assert set(objects["Secret"]["stringData"].values()) == {"CHANGE-ME"}


@EACH
def test_its_configuration_is_the_file_for_containers(name: str) -> None:
    text = of(name)["ConfigMap"]["data"][Path(CONFIG).name]
    assert text == (DEPLOY / "connector.toml").read_text()
    required = set(re.findall(r"\${(\w+)}", re.sub(r"^#.*$", "", text, flags=re.M)))
    assert required <= {each["name"] for each in container(name)["env"]}


@EACH
def test_its_probes_use_existing_routes_on_the_named_port(name: str) -> None:
    spec = container(name)
    (port,) = spec["ports"]
    assert port["containerPort"] == Config().server.port
    assert len(port["name"]) <= 15
    probes = {key: value["httpGet"] for key, value in spec.items() if key.endswith("Probe")}
    assert all(probe["port"] == port["name"] for probe in probes.values())
    assert {probe["path"] for probe in probes.values()} <= routes()
    assert probes["startupProbe"]["path"] == probes["livenessProbe"]["path"] == "/livez"
    (service,) = of(name)["Service"]["spec"]["ports"]
    assert service["targetPort"] == port["name"]
    labels = of(name)["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert of(name)["Service"]["spec"]["selector"].items() <= labels.items()


def test_readiness_counts_unless_it_is_a_sidecar() -> None:
    for name in ("standalone.yaml", "replicas.yaml"):
        assert container(name)["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert "readinessProbe" not in container("sidecar.yaml")
    assert of("sidecar.yaml")["Service"]["spec"]["publishNotReadyAddresses"] is True


def test_the_sidecar_is_a_native_sidecar() -> None:
    (sidecar,) = pod("sidecar.yaml")["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("connector", "Always")
    assert "initContainers" not in pod("standalone.yaml") | pod("replicas.yaml")


@ON_A_VOLUME
def test_a_store_on_a_volume_has_one_daemon(name: str) -> None:
    spec = of(name)["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_replicas_share_a_database_and_are_replaced_one_after_the_other() -> None:
    objects = of("replicas.yaml")
    spec, labels = objects["Deployment"]["spec"], objects["Deployment"]["metadata"]["labels"]
    assert spec["replicas"] > 1
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    (url,) = [e for e in container("replicas.yaml")["env"] if e["name"] == "CONNECTOR_STORE_URL"]
    key = url["valueFrom"]["secretKeyRef"]
    assert key["name"] == objects["Secret"]["metadata"]["name"]
    more = set(re.findall(rf"{SECRETS}/(\w+)", more_of_replicas()))
    assert set(objects["Secret"]["stringData"]) == secret_files() | more | {key["key"]}
    assert "PersistentVolumeClaim" not in objects
    budget = objects["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] < spec["replicas"]
    selectors = [budget["selector"], spec["selector"]]
    selectors += [s["labelSelector"] for s in pod("replicas.yaml")["topologySpreadConstraints"]]
    assert all(selector == {"matchLabels": labels} for selector in selectors)


def more_of_replicas() -> str:
    """The file that replicas have beside connector.toml, where that includes it."""
    data = of("replicas.yaml")["ConfigMap"]["data"]
    (volume,) = [v for v in pod("replicas.yaml")["volumes"] if v["name"] == "connector-config"]
    paths = {item["key"]: item["path"] for item in volume["configMap"]["items"]}
    name = Path(CONFIG).name
    assert paths == {key: key if key == name else f"conf.d/{key}" for key in data}
    assert tomllib.loads(data[name])["include"] == ["conf.d/*.toml"]
    (more,) = data.keys() - {name}
    return str(data[more])


def test_replicas_wait_until_no_one_sends_to_them_any_more() -> None:
    config = Config.model_validate({"server": tomllib.loads(more_of_replicas())["server"]})
    probe = container("replicas.yaml")["readinessProbe"]
    assert probe["periodSeconds"] <= config.server.drain_delay < config.server.shutdown_timeout


@EACH
def test_it_has_enough_time_to_start_and_to_stop(name: str) -> None:
    assert pod(name)["terminationGracePeriodSeconds"] >= GRACE
    start = container(name)["startupProbe"]
    # The start waits up to 30 s for the lease, and copies and migrates an old store.
    assert start["periodSeconds"] * start["failureThreshold"] >= 120


def test_the_ingress_publishes_what_others_call_and_nothing_else() -> None:
    (ingress,) = of("ingress.yaml").values()
    (rule,) = ingress["spec"]["rules"]
    paths = {path["path"]: path["backend"]["service"] for path in rule["http"]["paths"]}
    assert set(paths) == {"/webhooks/", "/flows/", "/oauth/"}
    assert {WebhookApp.prefix, FlowApp.prefix} <= set(paths)
    service = of("standalone.yaml")["Service"]
    assert service == of("replicas.yaml")["Service"]
    (port,) = service["spec"]["ports"]
    expected = {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    assert all(backend == expected for backend in paths.values())
    for text in (ROOT / "docs/deploy.md", DEPLOY / "compose.yaml", DEPLOY / "connector.toml"):
        assert all(path in text.read_text() for path in paths), text


def test_prometheus_finds_the_pods_by_label_and_port() -> None:
    (monitor,) = of("podmonitor.yaml").values()
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] in routes()
    for name in DEPLOYMENTS:
        labels = of(name)["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert wanted.items() <= labels.items()
        assert endpoint["port"] in [port["name"] for port in container(name)["ports"]]


@pytest.mark.parametrize("name", ["standalone.yaml", "replicas.yaml"])
def test_kubectl_kustomize_builds(name: str, tmp_path: Path) -> None:
    tool = shutil.which("kubectl")
    if tool is None:
        pytest.skip("no kubectl")
    shutil.copytree(KUBERNETES, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "kustomization.yaml"
    file.write_text(file.read_text().replace("  - standalone.yaml", f"  - {name}"))
    run = subprocess.run([tool, "kustomize", tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert len(list(yaml.safe_load_all(run.stdout))) == len(of(name))


def test_every_file_uses_the_same_image() -> None:
    names = {container(name)["image"] for name in DEPLOYMENTS}
    names.add(compose()["services"]["connector"]["image"])
    (name,) = names
    assert f"--tag {name} " in (DEPLOY / "Dockerfile").read_text()
    assert not name.endswith(":latest")
    (image,) = of("kustomization.yaml")["Kustomization"]["images"]
    assert f"{image['name']}:{image['newTag']}" == name


# ── Compose ──────────────────────────────────────────────────────────────────────────────────────


def test_every_service_is_hardened_and_has_a_healthcheck() -> None:
    services = compose()["services"]
    assert set(services) == {"connector", "postgres", "prometheus", "grafana"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "/tmp" in service["tmpfs"]
        assert service["healthcheck"]["test"][0] == "CMD"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest")


def test_compose_runs_the_connector_as_the_image_says() -> None:
    service = compose()["services"]["connector"]
    assert service["user"] == f"{UID}:{UID}"
    assert service["healthcheck"]["test"] == ["CMD", "connector", "healthcheck"]
    assert int(service["stop_grace_period"].removesuffix("s")) >= GRACE
    port = Config().server.port
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"./connector.toml:{CONFIG}:ro" in service["volumes"]
    (name,) = [s.text for s in dockerfile() if s.instruction == "USER"]
    assert name == service["user"]


def test_compose_passes_every_secret_as_a_file() -> None:
    whole = compose()
    secrets = whole["services"]["connector"]["secrets"]
    targets = {each["source"]: each["target"] for each in secrets}
    assert targets == {name: f"{SECRETS}/{name}" for name in targets}
    assert set(targets) == secret_files() | {"postgres_password"}
    used = {
        each if isinstance(each, str) else each["source"]
        for service in whole["services"].values()
        for each in service.get("secrets", [])
    }
    assert used == set(whole["secrets"])
    assert whole["secrets"] == {name: {"file": f"./secrets/{name}"} for name in used}
    assert "secrets/" in (DEPLOY / ".gitignore").read_text().splitlines()


def test_compose_mounts_existing_files() -> None:
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in compose()["volumes"]


def test_grafana_and_prometheus_find_their_mounted_files() -> None:
    services = compose()["services"]
    folder = DEPLOY / "grafana" / "provisioning"
    mounted = {volume.split(":")[1] for volume in services["grafana"]["volumes"]}
    for file in folder.glob("dashboards/*.y*ml"):
        for provider in yaml.safe_load(file.read_text())["providers"]:
            assert provider["options"]["path"] in mounted
    for file in folder.glob("datasources/*.y*ml"):
        for source in yaml.safe_load(file.read_text())["datasources"]:
            assert source["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = scraped["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"connector:{Config().server.port}"]}]
    (endpoint,) = of("podmonitor.yaml")["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert {"targetLabel": "job", "replacement": job["job_name"]} in endpoint["relabelings"]
