"""deploy/ray is what Ray Serve and our settings take. tests/scale runs it."""

import importlib

import pytest
import yaml

from service.settings import Settings
from tests.tools import ROOT


# What ray.serve itself does, as it is imported.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_configuration_of_ray_serve_fits_ray_and_our_settings() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema(**yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text()))
    [application] = config.applications
    [deployment] = application.deployments

    for path in (application.import_path, *config.grpc_options.grpc_servicer_functions):
        module, _, name = path.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    settings = Settings(**application.args)
    # Ray may not kill a replica whose calls have time left, nor hold back what our queue refuses.
    assert deployment.graceful_shutdown_timeout_s > settings.drain_seconds
    rows = settings.max_rows * int(deployment.ray_actor_options.num_cpus)
    assert deployment.max_ongoing_requests > rows
