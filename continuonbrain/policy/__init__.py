"""From observation to path: prompt layout, action codec, action chunk, engines, path tracker."""
