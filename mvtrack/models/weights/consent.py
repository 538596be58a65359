"""Which weights may run without being asked for: those that the registry says may be used commercially, no others."""

from pathlib import Path

from mvtrack.models.weights.registry import registry


def consent_lacking(model: str) -> str | None:
    """What lacks before a model may run that --non-commercial was not given for; None where its licence is free.

    model: a hub id, or a path, whose licence nobody can tell. A path that exists comes before an id, as for loaders.
    """
    entries = [] if Path(model).exists() else [entry for entry in registry().values() if entry.source == model]
    if entries and all(entry.non_commercial is False for entry in entries):
        return None
    bound = next((entry for entry in entries if entry.non_commercial), None)
    why = f"{model} is for non-commercial use ({bound.licence})" if bound else f"the licence of {model} is not known"
    return f"consent: {why}; pass --non-commercial"
