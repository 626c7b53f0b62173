"""Where a network looks: overlays, strips, videos, the paper's figures, interventions."""
