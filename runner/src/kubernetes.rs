//! A sweep on Kubernetes: the manifest of an indexed Job, whose pods share a volume.

use std::path::{Path, PathBuf};

use stemm::{Error, Result};

use crate::written;

/// What the Job is made of.
pub struct Job {
    pub plan: PathBuf,
    pub image: String,
    pub claim: String,
    pub mount: String,
    pub pods: usize,
    pub at_once: usize,
    pub gpus: usize,
}

impl Job {
    /// # Errors
    /// Names that no container can have, a plan that lies outside of the volume.
    pub fn manifest(&self) -> Result<String> {
        let Job { image, claim, mount, pods, at_once, gpus, .. } = self;
        if !Path::new(mount).is_absolute() {
            return Err(Error::Setting { setting: "--mount", value: mount.clone(), requirement: "an absolute path" });
        }
        if !self.plan.starts_with(mount) {
            let requirement = "a path below that of `--mount`, as the containers see it";
            return Err(Error::Setting { setting: "PLAN", value: self.plan.display().to_string(), requirement });
        }
        // Without control characters, strings of JSON are strings of YAML.
        let text = |setting, value: &Path| -> Result<String> {
            let value = written(setting, value)?;
            Ok(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
        };
        let (plan, image) = (text("PLAN", &self.plan)?, text("--image", image.as_ref())?);
        let (claim, mount) = (text("--claim", claim.as_ref())?, text("--mount", mount.as_ref())?);
        let resources = match gpus {
            0 => String::new(),
            gpus => format!("          resources:\n            limits:\n              nvidia.com/gpu: {gpus}\n"),
        };
        Ok(format!(
            r#"# Each pod takes its share of the experiments. Models are trained by whoever needs them first; the others wait, or go on from its
# checkpoints if it is evicted. Apply: kubectl apply -f this-file
apiVersion: batch/v1
kind: Job
metadata:
  name: stemm-sweep
spec:
  completionMode: Indexed
  completions: {pods}
  parallelism: {at_once}
  # An evicted pod is tried again; one whose experiments failed has said so in the results.
  backoffLimitPerIndex: 4
  podFailurePolicy:
    rules:
      - action: FailIndex
        onExitCodes:
          containerName: stemm
          operator: In
          values: [3]
  template:
    metadata:
      labels:
        app: stemm
    spec:
      restartPolicy: Never
      # The image's user is 1000, and the volume may be anybody's.
      securityContext:
        fsGroup: 1000
        fsGroupChangePolicy: OnRootMismatch
      containers:
        - name: stemm
          image: {image}
          imagePullPolicy: IfNotPresent
          command: ["python3", "scripts/run.py", "stemm", "run", {plan}, "--of", "{pods}"]
{resources}          volumeMounts:
            - name: work
              mountPath: {mount}
      volumes:
        - name: work
          persistentVolumeClaim:
            claimName: {claim}
"#
        ))
    }
}
