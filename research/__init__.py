"""Research beside the product: how the shipped backbone is pretrained, and studies. Runnable and tested, in no wheel."""
