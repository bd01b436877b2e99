"""Where records come from: files, Bundles, bulk export, REST search, a watched folder."""
