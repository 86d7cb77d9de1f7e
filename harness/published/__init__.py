"""What others published, reproduced: is the simulator right about machines and models that others measured?"""
