"""Files that are written from the code, so that they cannot drift from it: `python -m ops.reference`.

    contracts ─▶ docs/reference/schemas/*.json, asyncapi.yaml, outcomes.md
    topology  ─▶ docs/reference/queues.md, deploy/compose/Config.json
    settings  ─▶ docs/reference/settings.md
    ledger    ─▶ the diagram in docs/explanation/delivery.md
    examples  ─▶ what compose and Kubernetes are configured with
    decisions ─▶ docs/adr/README.md

Every generator is a pure function from what it is given to `{path: text}`; `__main__` reads and writes.
"""
