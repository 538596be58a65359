import pytest

from mvtrack.config.datasets import DatasetOptions


@pytest.fixture
def options() -> DatasetOptions:
    return DatasetOptions()
