"""Reads a harbour's arrivals and writes what a harbour master asks for: `python3 analyse.py arrivals.csv report.json`.

Rows without a weight are counted and left out of sums; a row that cannot be read ends the run with its number.
"""

import csv
import json
import statistics
import sys
from collections import Counter, defaultdict
from datetime import datetime


def main(source, target):
    tonnes, stays, hours, ships = defaultdict(float), defaultdict(list), Counter(), Counter()
    rows = unweighed = 0
    with open(source, newline="") as f:
        for number, row in enumerate(csv.DictReader(f), start=2):
            try:
                arrival = datetime.fromisoformat(row["arrival"])
                stay = (datetime.fromisoformat(row["departure"]) - arrival).total_seconds() / 3600
            except (KeyError, ValueError) as error:
                sys.exit(f"{source}:{number}: {error}")
            rows += 1
            hours[arrival.hour] += 1
            ships[row["ship"]] += 1
            stays[row["cargo"]].append(stay)
            if row["tonnes"]:
                tonnes[row["cargo"]] += float(row["tonnes"])
            else:
                unweighed += 1
            if rows % 100 == 0:
                print(f"{rows} arrivals read", flush=True)
    every = [s for group in stays.values() for s in group]
    limit = statistics.median(every) * 3
    report = {
        "arrivals": rows,
        "unweighed": unweighed,
        "tonnes": {cargo: round(total, 1) for cargo, total in sorted(tonnes.items())},
        "median_stay_hours": {cargo: round(statistics.median(s), 2) for cargo, s in sorted(stays.items())},
        "busiest_hour": min(hours, key=lambda hour: (-hours[hour], hour)),
        "most_frequent_ship": min(ships, key=lambda ship: (-ships[ship], ship)),
        "overstayed": sum(s > limit for s in every),
    }
    with open(target, "w") as f:
        json.dump(report, f, indent=2)
        f.write("\n")
    for cargo, total in sorted(report["tonnes"].items(), key=lambda entry: -entry[1]):
        print(f"{cargo:<12} {total:>12,.1f} t")


if __name__ == "__main__":
    main(*sys.argv[1:3])
