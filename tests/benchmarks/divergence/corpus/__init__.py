"""Small tasks of many families, trained in plain loops by plain optimizers: what strangers' runs look like."""
