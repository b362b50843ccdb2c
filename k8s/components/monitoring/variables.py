"""The variables of the Grafana dashboard, and the label matcher that they make."""

from panels import SOURCE, Json

JOB = 'namespace=~"$namespace", job=~"$job"'


def variables() -> list[Json]:
    """Return the dashboard's variables. The model selects the replicas that serve it, which every panel then shows."""
    chosen = {"type": "query", "datasource": SOURCE, "refresh": 2, "includeAll": True, "multi": True, "sort": 1}
    everything = {"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
            "current": {"text": "", "value": ""},
        },
        {
            "name": "namespace",
            "label": "Namespace",
            "query": "label_values(edgesam_model_info, namespace)",
            **chosen,
            **everything,
        },
        {
            "name": "job",
            "label": "Job",
            "query": 'label_values(edgesam_model_info{namespace=~"$namespace"}, job)',
            **chosen,
            "current": {"text": ["All"], "value": ["$__all"]},
        },
        {
            "name": "model",
            "label": "Model",
            "query": f"label_values(edgesam_model_info{{{JOB}}}, model)",
            **chosen,
            **everything,
        },
        {
            "name": "instance",
            "label": "Replica",
            "query": f'label_values(edgesam_model_info{{{JOB}, model=~"$model"}}, instance)',
            **chosen,
            "current": {"text": ["All"], "value": ["$__all"]},
        },
        {
            "name": "runbook",
            "label": "Runbook",
            "type": "constant",
            "query": "docs/operations/runbook.md",
            "description": "Address of docs/operations/runbook.md.",
            "hide": 2,
        },
    ]
