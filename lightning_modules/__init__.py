"""Networks of "Action Recognition using Visual Attention" and the LightningModule that trains them."""
