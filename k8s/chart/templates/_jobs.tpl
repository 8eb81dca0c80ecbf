{{/* Before the release is installed or upgraded, in the order of the weights. */}}
{{- define "strongroom.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation
{{- end -}}

{{/* Commands of manage.py that run one after the other, once before a release.
     Argument: (dict root component commands weight). */}}
{{- define "strongroom.job" -}}
{{- $before := initial .commands -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "strongroom.labels" (list .root .component) | nindent 4 }}
  annotations:
    {{- include "strongroom.hook" .weight | nindent 4 }}
spec:
  backoffLimit: 3
  activeDeadlineSeconds: {{ .root.Values.jobs.activeDeadlineSeconds }}
  template:
    metadata:
      labels:
        {{- include "strongroom.labels" (list .root .component) | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
      {{- include "strongroom.podSecurity" .root | nindent 6 }}
      {{- if $before }}
      initContainers:
        {{- range $before }}
        {{- include "strongroom.step" (list $ .) | nindent 8 }}
        {{- end }}
      {{- end }}
      containers:
        {{- include "strongroom.step" (list . (last .commands)) | nindent 8 }}
      volumes:
        {{- include "strongroom.volumes" (list .root .component (list "postgres-ca" "redis-ca")) | nindent 8 }}
{{- end -}}

{{- define "strongroom.step" -}}
{{- $job := index . 0 -}}
{{- $root := $job.root -}}
{{- $command := index . 1 -}}
- name: {{ $command | replace "_" "-" }}
  image: {{ include "strongroom.image" (list $root "web") }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [python, manage.py, {{ $command }}]
  {{- include "strongroom.containerSecurity" $root | nindent 2 }}
  env:
    {{- include "strongroom.commonEnv" $root | trim | nindent 4 }}
    {{- include "strongroom.djangoEnv" $root | trim | nindent 4 }}
    {{- include "strongroom.secretEnv" (list $root $job.component) | trim | nindent 4 }}
  resources: {{ toYaml $root.Values.jobs.resources | nindent 4 }}
  volumeMounts:
    {{- include "strongroom.mounts" (list $root $job.component (list "postgres-ca" "redis-ca")) | nindent 4 }}
{{- end -}}
