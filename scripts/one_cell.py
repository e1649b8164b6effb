"""Runs one cell in a kernel and prints its result: python3 scripts/run.py python scripts/one_cell.py CODE"""

import sys

from session import Session

if __name__ == "__main__":
    with Session() as session:
        session.wait()
        answer = session.run(sys.argv[1])
        print(answer.text or answer.error)
        sys.exit(answer.status != "ok")
