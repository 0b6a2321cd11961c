# pyright: strict
"""Push and pull in one file."""

from zerowait import App, Client

app = App("printer")


@app.pull("numbers")
def show(number: int) -> None:
    print(number)


if __name__ == "__main__":
    with Client("counter") as zw:
        for n in range(3):
            zw.push("numbers", n)
