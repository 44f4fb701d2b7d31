"""The face for machines that watch: /health and /metrics. Reads only; whatever it cannot read is unhealthy."""
