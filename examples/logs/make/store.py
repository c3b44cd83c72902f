"""Orders in SQLite."""
import sqlite3
import time

PATH = "orders.db"


def connect():
    return sqlite3.connect(PATH, timeout=0.05, isolation_level=None)


def create_tables():
    db = connect()
    db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, total INTEGER)")
    db.close()


def insert(order_id, total):
    db = connect()
    try:
        db.execute("INSERT INTO orders (id, total) VALUES (?, ?)", (order_id, total))
    finally:
        db.close()


def find(order_id):
    db = connect()
    try:
        return db.execute("SELECT id, total FROM orders WHERE id = ?", (order_id,)).fetchone()
    finally:
        db.close()


def export(seconds):
    """Hold an exclusive lock while all rows are read out."""
    db = connect()
    try:
        db.execute("BEGIN EXCLUSIVE")
        rows = db.execute("SELECT count(*) FROM orders").fetchone()[0]
        time.sleep(seconds)
        db.execute("COMMIT")
        return rows
    finally:
        db.close()
