"""The story that `make demo` tells: a robot meets a new road, is taught, learns, proves it and drives on."""
