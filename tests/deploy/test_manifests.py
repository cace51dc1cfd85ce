"""Compose and Kubernetes files: consistent with each other, with the image and with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
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
BOTH = pytest.mark.parametrize("name", ["sidecar.yaml", "standalone.yaml"])
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


@BOTH
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


@BOTH
def test_its_volumes_reference_existing_objects(name: str) -> None:
    objects, volumes = of(name), {v["name"]: v for v in pod(name)["volumes"]}
    claim = volumes["connector-state"]["persistentVolumeClaim"]["claimName"]
    assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
    assert "ReadWriteMany" not in objects["PersistentVolumeClaim"]["spec"]["accessModes"]
    config = volumes["connector-config"]["configMap"]["name"]
    assert config == objects["ConfigMap"]["metadata"]["name"]
    secret = volumes["connector-secrets"]["secret"]
    assert secret["secretName"] == objects["Secret"]["metadata"]["name"]
    assert secret["defaultMode"] == 0o440
    assert set(objects["Secret"]["stringData"]) == secret_files()
    assert set(objects["Secret"]["stringData"].values()) == {"CHANGE-ME"}


@BOTH
def test_its_configuration_is_the_file_for_containers(name: str) -> None:
    text = of(name)["ConfigMap"]["data"][Path(CONFIG).name]
    assert text == (DEPLOY / "connector.toml").read_text()
    required = set(re.findall(r"\${(\w+)}", re.sub(r"^#.*$", "", text, flags=re.M)))
    assert required <= {each["name"] for each in container(name)["env"]}


@BOTH
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


def test_readiness_counts_only_in_a_standalone_deployment() -> None:
    assert container("standalone.yaml")["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert "readinessProbe" not in container("sidecar.yaml")
    assert of("sidecar.yaml")["Service"]["spec"]["publishNotReadyAddresses"] is True


def test_the_sidecar_is_a_native_sidecar() -> None:
    (sidecar,) = pod("sidecar.yaml")["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("connector", "Always")
    assert "initContainers" not in pod("standalone.yaml")


@BOTH
def test_one_store_has_one_daemon_with_enough_time_to_stop(name: str) -> None:
    spec = of(name)["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
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
    for name in ("sidecar.yaml", "standalone.yaml"):
        labels = of(name)["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert wanted.items() <= labels.items()
        assert endpoint["port"] in [port["name"] for port in container(name)["ports"]]


def test_kubectl_kustomize_builds() -> None:
    tool = shutil.which("kubectl")
    if tool is None:
        pytest.skip("no kubectl")
    run = subprocess.run(
        [tool, "kustomize", KUBERNETES], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert len(list(yaml.safe_load_all(run.stdout))) == len(of("standalone.yaml"))


def test_every_file_uses_the_same_image() -> None:
    names = {container(name)["image"] for name in ("sidecar.yaml", "standalone.yaml")}
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
