"""Attention in pictures: overlays, filmstrips, videos, the paper's figures, interventions."""
