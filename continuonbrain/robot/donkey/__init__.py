"""A donkeycar-like car: PWM chip, camera, gamepad, battery gauge, emergency stop, and the `Robot` of all of them."""
