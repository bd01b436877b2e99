"""The only place where the coordinator touches Flower."""

HOME_VARIABLE = "GEMEL_COORDINATOR_HOME"
