# plan: what the sweep costs on this device, before it is run: snakemake plan --cores 1 --configfile FILE
rule merge:
    output:
        f"{TABLES}/plan.yaml",
    params:
        merged=json.dumps(config, indent=1),
    run:
        write_whole(Path(output[0]), params.merged.encode())


rule plan:
    input:
        code=code("planning/plan"),
        config=rules.merge.output,
        data=to_count(),
    output:
        f"{TABLES}/plan.csv",
    log:
        f"{RESULTS}/logs/plan.log",
    conda:
        ENV
    params:
        data=DATA,
    shell:
        "python -m flare plan --config {input.config:q} --data {params.data:q} --output {output:q} 2> {log:q}"
