"""The claims of the ResNet-18 study."""
