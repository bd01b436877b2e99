"""The only place where a node touches Flower."""

HOME_VARIABLE = "GEMEL_NODE_HOME"
