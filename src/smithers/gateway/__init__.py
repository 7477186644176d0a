"""The Gateway: one control plane over many workflows, for bots, dashboards and people."""
