"""The messages: one file per conversation, frozen, versioned in their kind.

    ask.v1 ────▶ gateway ──▶ retrieve.v1 ──▶ retriever ──▶ generate.v1 ──▶ generator ──▶ answer.v1
    cancel.v1 ──▶   ├──▶ answer.v1
                    └──▶ deadline.v1 (scheduled) ──▶ gateway ──▶ answer.v1

Readers ignore fields they do not know. A new field is read one release before it is sent.
"""
