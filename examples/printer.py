"""Push and pull, one file for both sides; nothing to configure on one machine.

zerowait run examples.printer:app      in one terminal
python -m examples.printer             in another
"""

from zerowait import App, Client

app = App("printer")


@app.pull("numbers")
def show(number: int) -> None:
    print(number, flush=True)


if __name__ == "__main__":
    with Client("counter") as zw:
        for n in range(3):
            zw.push("numbers", n)
