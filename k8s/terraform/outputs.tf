output "cluster_name" {
  description = "Name of the cluster, for `gcloud container clusters get-credentials`."
  value       = module.cluster.name
}

output "image_registry" {
  description = "Where images are pushed, for IMAGE_REGISTRY."
  value       = module.registry.image_registry
}

output "database_instance" {
  description = "Name of the database instance, for the key ceremony."
  value       = module.database.instance_name
}

output "database_host" {
  description = "Private address of the database, for the STRONGROOM_…DATABASE_URL of the secrets."
  value       = module.database.host
}

output "database_name" {
  description = "Name of the database."
  value       = module.database.database_name
}

output "database_ca" {
  description = "Authority (PEM) of the database's certificate, for the Secret that the chart mounts."
  value       = module.database.server_ca
}

output "cache_address" {
  description = "Where Redis is reached, as host:port, for STRONGROOM_REDIS_URL (rediss://)."
  value       = "${module.cache.host}:${module.cache.port}"
}

output "cache_ca" {
  description = "Authority (PEM) of the cache's certificate, for the Secret that the chart mounts."
  value       = module.cache.server_ca
}

output "keybroker_key" {
  description = "KMS key that unseals the key broker's key store: for the seal of Vault."
  value       = module.secrets.keybroker_key
}

output "secret_ids" {
  description = "Secrets that the key ceremony fills, by component."
  value       = module.secrets.secret_ids
}

output "service_accounts" {
  description = "Account of each component; web and worker get HMAC keys for the bucket."
  value       = module.identity.component_emails
}

output "secrets_account" {
  description = "Account of the External Secrets operator."
  value       = module.identity.secrets_email
}

output "helm_values" {
  description = "Values of the chart that follow from what was made, as YAML: k8s/argo/values/ENVIRONMENT-cluster.yaml."

  value = yamlencode({
    platform = "gke"
    image    = { registry = module.registry.image_registry }

    # The certificate names the instance, not an address; the authority signs for nobody else.
    database = {
      sslMode  = "verify-ca"
      caSecret = { name = "${var.release}-postgres-ca", key = "ca.crt" }
    }
    redis = { caSecret = { name = "${var.release}-redis-ca", key = "ca.crt" } }

    # Through HMAC keys, which are in the secrets of the components.
    objectStore = {
      bucket      = module.store.bucket_name
      endpoint    = module.store.endpoint
      region      = "auto"
      credentials = "secret"
    }

    externalSecrets = { enabled = true, prefix = "${local.name}-" }

    serviceAccounts = {
      for component, email in module.identity.component_emails :
      component => { annotations = { "iam.gke.io/gcp-service-account" = email } }
    }

    network = {
      postgres = { port = 5432, peers = [{ ipBlock = { cidr = module.network.private_services_cidr } }] }
      redis    = { port = module.cache.port, peers = [{ ipBlock = { cidr = module.network.private_services_cidr } }] }
    }
  })
}

output "gpu_pools" {
  description = "What the chart's `pools` have to say to come onto these machines; their sizes are in k8s/argo/values."
  value       = module.pools.chart_pools
}
