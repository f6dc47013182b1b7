"""The style of the page: one column on a phone, light or dark as the reader's system, plain when printed."""

LIGHT = """--paper:#fff;--ink:#1b1f24;--soft:#57606a;--edge:#d0d7de;--fill:#f6f8fa;--link:#0a58ca;--good:#116329;--bad:#b3261e;
--c0:#0072b2;--c1:#c44f00;--c2:#00795a;--c3:#a8457f;--c4:#8a6100;--c5:#1f7fb8;--c6:#333"""
DARK = """--paper:#14171c;--ink:#e6e9ee;--soft:#a3adb8;--edge:#3a424d;--fill:#1d222a;--link:#7db7ff;--good:#6fce88;
--bad:#ff8f85;--c0:#56b4e9;--c1:#ff9a57;--c2:#3fcf9f;--c3:#e59ac6;--c4:#e8bf4d;--c5:#8fd0ff;--c6:#d6d6d6"""

COLOURS = "".join(f".c{number}{{--own:var(--c{number})}}" for number in range(7))

STYLE = f"""
:root{{color-scheme:light dark;{LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%}}
body{{margin:0 auto;padding:1rem;max-width:72rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:break-word}}
h1{{font-size:1.6rem;line-height:1.25;margin:.5rem 0}}
h2{{font-size:1.3rem;margin:2.5rem 0 .75rem;border-bottom:1px solid var(--edge);padding-bottom:.25rem}}
h3{{font-size:1.05rem;margin:1.75rem 0 .5rem}}
h4{{font-size:1rem;margin:1.25rem 0 .5rem}}
a{{color:var(--link)}}
p,ul{{max-width:48rem}}
code,pre{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.875em;overflow-wrap:anywhere}}
pre{{background:var(--fill);border:1px solid var(--edge);border-radius:6px;padding:.75rem;white-space:pre-wrap}}
.skip{{position:absolute;left:-999rem}}
.skip:focus{{left:1rem;background:var(--paper)}}
nav ul{{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;padding:0;list-style:none;max-width:none}}
nav a{{display:inline-block;padding:.3rem 0}}
dl{{margin:0}}
dl div{{display:grid;grid-template-columns:9rem minmax(0,1fr);gap:.75rem;padding:.2rem 0}}
dt{{color:var(--soft)}}
dd{{margin:0;min-width:0}}
.note{{border-left:4px solid var(--edge);padding:.25rem .75rem;color:var(--soft)}}
.scroll{{overflow-x:auto;margin:1rem 0;max-width:100%}}
table{{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}}
caption{{text-align:left;font-weight:600;padding-bottom:.4rem}}
caption span{{display:inline-block;position:sticky;left:0;max-width:min(calc(100vw - 2rem),60rem)}}
th small{{display:block;color:var(--soft);line-height:1.3}}
p small{{color:var(--soft);font-size:.875rem}}
th,td{{padding:.3rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--edge)}}
thead th{{vertical-align:bottom;white-space:normal;min-width:4.5rem;color:var(--soft);font-weight:600}}
tbody th{{text-align:left;font-weight:400;white-space:normal;min-width:13rem;max-width:20rem}}
th:first-child{{text-align:left;position:sticky;left:0;background:var(--paper)}}
figure{{margin:1.25rem 0}}
figcaption{{color:var(--soft);font-size:.9rem;max-width:48rem;margin:.5rem 0}}
.panels{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));gap:1rem 1.5rem;align-items:start}}
.panels>*{{min-width:0}}
.panels>svg{{max-width:40rem}}
.small .panels{{grid-template-columns:repeat(auto-fill,minmax(min(46%,18rem),1fr));gap:1rem .75rem}}
.panel-title{{margin:0 0 .25rem;font-size:.85rem;line-height:1.35}}
.panel-title span{{display:block}}
.plot{{display:block;width:100%;height:auto}}
.plot text{{font:14px system-ui,sans-serif;fill:var(--soft)}}
.plot .below{{text-anchor:middle}}
.plot .left{{text-anchor:end}}
.small .plot text{{font-size:15px}}
@media (min-width:50rem){{.plot text{{font-size:12.5px}}.small .plot text{{font-size:10px}}}}
.plot .left,.plot .below{{font-variant-numeric:tabular-nums}}
{COLOURS}
.line{{fill:none;stroke:var(--own);stroke-width:1.8}}
.band{{fill:var(--own);opacity:.1;stroke:none}}
.bar{{fill:var(--own);opacity:.85}}
.mark{{fill:var(--own);stroke:var(--paper);stroke-width:.25}}
.hollow{{fill:var(--paper);stroke:var(--ink);stroke-width:.28}}
.whisker{{stroke:var(--own);stroke-width:1.6;fill:none}}
.level{{stroke:var(--ink);stroke-width:1.1;stroke-dasharray:5 4;fill:none;opacity:.8}}
.grid{{stroke:var(--edge);stroke-width:.7;fill:none;opacity:.75}}
.frame{{stroke:var(--soft);stroke-width:1;fill:none}}
.cells,.ramp{{image-rendering:pixelated}}
.ramp{{width:8rem;height:.8rem;vertical-align:middle}}
.legend{{display:flex;flex-wrap:wrap;gap:.15rem 1.25rem;padding:0;margin:.5rem 0;list-style:none;font-size:.875rem;
max-width:none}}
.legend li{{display:flex;gap:.4rem;align-items:center}}
p.legend{{gap:.4rem;align-items:center}}
.key{{width:34px;height:14px;flex:none}}
details{{margin:.25rem 0}}
summary{{cursor:pointer;padding:.3rem 0;color:var(--link);font-size:.9rem}}
.gallery{{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.25rem,1fr));gap:.75rem;padding:0;margin:.5rem 0;
list-style:none;max-width:none;font-size:.8rem;line-height:1.35}}
.gallery li{{min-width:0;padding:.3rem;border:1px solid var(--edge);border-radius:6px}}
.gallery li.missed{{border:2px solid var(--bad)}}
.gallery img{{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--fill)}}
.gallery .tiny{{image-rendering:pixelated}}
.gallery span{{display:block}}
.right{{color:var(--good)}}
.wrong{{color:var(--bad);font-weight:600}}
footer{{margin-top:3rem;color:var(--soft);font-size:.875rem}}
@media (max-width:30rem){{dl div{{grid-template-columns:1fr;gap:0;padding:.35rem 0}}tbody th{{max-width:10rem;min-width:9rem}}}}
@media print{{:root{{color-scheme:light;{LIGHT}}}body{{max-width:none;font-size:10pt}}nav,summary,.skip{{display:none}}
figure,li,tr{{break-inside:avoid}}h2,h3,h4{{break-after:avoid}}.scroll{{overflow:visible}}table{{font-size:7pt}}
th,td{{padding:.15rem .3rem;white-space:normal}}caption span{{max-width:none}}thead th,tbody th{{min-width:0}}
*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}}}
"""
