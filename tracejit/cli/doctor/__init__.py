"""`tracejit doctor`: is everything here, does it work, and what adds what is missing?"""
